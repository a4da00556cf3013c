// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {CommonBase} from "forge-std/Base.sol";

import {IComputeEscrow} from "../../src/interfaces/IComputeEscrow.sol";
import {TypedData} from "../support/TypedData.sol";
import {MoodyToken} from "./MoodyToken.sol";

/// @notice Who acts, with which keys. The last buyer is the last provider, too: it may deal with itself.
abstract contract Actors is CommonBase {
    uint256 internal constant BUYERS = 3;
    uint256 internal constant PROVIDERS = 2;
    uint256 internal constant WITNESSES = 2;

    MoodyToken public immutable TOKEN;
    IComputeEscrow public immutable ESCROW;
    bytes32 private immutable DOMAIN;

    address[BUYERS] public buyers;
    address[PROVIDERS] public providers;
    address[PROVIDERS] public meters;
    address[WITNESSES] public witnesses;
    address public operator; // of purses
    address public stranger;
    address public deployer; // what would be the owner, were there one
    address public feeRecipient;

    mapping(address account => uint256 key) internal _keys;
    /// @dev Whoever may have a balance: first those who have a key, then purses.
    address[] private _accounts;
    uint256 private immutable PEOPLE;

    uint256 private _random;

    constructor(MoodyToken token, IComputeEscrow escrow, uint256 deployerKey, uint256 feeRecipientKey) {
        (TOKEN, ESCROW, DOMAIN) = (token, escrow, TypedData.domain(block.chainid, address(escrow)));
        for (uint256 i = 0; i < BUYERS; i++) {
            buyers[i] = _holder(_key("buyer", i));
        }
        (providers[0], providers[1]) = (_holder(_key("provider", 0)), buyers[2]);
        for (uint256 i = 0; i < 2; i++) {
            (meters[i], witnesses[i]) = (_actor(_key("meter", i)), _holder(_key("witness", i)));
        }
        (operator, stranger) = (_holder(_key("operator", 0)), _holder(_key("stranger", 0)));
        (deployer, feeRecipient) = (_holder(deployerKey), _holder(feeRecipientKey));
        PEOPLE = _accounts.length;
    }

    function _actor(uint256 key) private returns (address account) {
        account = vm.addr(key);
        _keys[account] = key;
    }

    function _holder(uint256 key) private returns (address account) {
        account = _actor(key);
        _accounts.push(account);
    }

    /// @dev A purse: an account that has a balance, and no key.
    function _admit(address purse) internal {
        _accounts.push(purse);
    }

    function _key(string memory name, uint256 index) private pure returns (uint256) {
        return uint256(keccak256(abi.encode(name, index)));
    }

    /// @notice Everyone who may have a balance.
    function accounts() public view returns (address[] memory) {
        return _accounts;
    }

    /* CHANCE */

    function _sow(uint256 seed) internal {
        _random = seed;
    }

    /// @dev From 0 to `n` - 1.
    function _draw(uint256 n) internal returns (uint256) {
        _random = uint256(keccak256(abi.encode(_random)));
        return _random % n;
    }

    /// @dev True once in `n`.
    function _once(uint256 n) internal returns (bool) {
        return _draw(n) == 0;
    }

    /// @dev One who can sign and call.
    function _anyone() internal returns (address) {
        return _accounts[_draw(PEOPLE)];
    }

    /// @dev As `_anyone`, or a purse.
    function _anyAccount() internal returns (address) {
        return _accounts[_draw(_accounts.length)];
    }

    /* SIGNATURES */

    function _digest(bytes32 structHash) private view returns (bytes32) {
        return TypedData.digest(DOMAIN, structHash);
    }

    function _sign(address signer, bytes32 structHash) internal view returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_keys[signer], _digest(structHash));
        return abi.encodePacked(r, s, v);
    }

    function _compact(address signer, bytes32 structHash) internal view returns (bytes32 r, bytes32 vs) {
        return vm.signCompact(_keys[signer], _digest(structHash));
    }

    /* ARITHMETIC */

    function _least(uint256 a, uint256 b) internal pure returns (uint256) {
        return a < b ? a : b;
    }

    function _most(uint256 a, uint256 b) internal pure returns (uint256) {
        return a > b ? a : b;
    }
}
