// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice An ordinary token with decimals of choice and supply for anyone.
contract PlainToken is ERC20 {
    uint8 private immutable DECIMALS;

    constructor(uint8 decimals_) ERC20("Plain", "PLN") {
        DECIMALS = decimals_;
    }

    function mint(address account, uint256 amount) external {
        _mint(account, amount);
    }

    function decimals() public view override returns (uint8) {
        return DECIMALS;
    }
}

/// @notice Keeps a hundredth of every transfer.
contract FeeOnTransferToken is PlainToken(18) {
    function _update(address from, address to, uint256 amount) internal override {
        if (from != address(0)) super._update(from, address(0xfee), amount / 100);
        super._update(from, to, from == address(0) ? amount : amount - amount / 100);
    }
}

/// @notice Gives the receiver a hundredth more than was sent.
contract GenerousToken is PlainToken(18) {
    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (from != address(0)) super._update(address(0), to, amount / 100);
    }
}

/// @notice Answers false instead of reverting, or true although nothing moved.
contract LyingToken is PlainToken(18) {
    bool public answer;
    bool public lies;

    function lie(bool lies_, bool answer_) external {
        (lies, answer) = (lies_, answer_);
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return lies ? answer : super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        return lies ? answer : super.transferFrom(from, to, amount);
    }
}

/// @notice Calls back before and after every transfer, as an ERC-777 token may.
contract CallbackToken is PlainToken(18) {
    address private _callee;
    bytes private _data;
    bool public calledBack;
    bool public succeeded;
    bytes public answer;

    function onTransfer(address callee, bytes calldata data) external {
        (_callee, _data) = (callee, data);
        calledBack = false;
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (_callee == address(0) || calledBack) return;
        calledBack = true;
        (succeeded, answer) = _callee.call(_data);
    }
}

/// @notice Refuses transfers to accounts on its list, as some stable coins do.
contract BlockingToken is PlainToken(18) {
    mapping(address => bool) public blocked;

    error Blocked(address account);

    function setBlocked(address account) external {
        blocked[account] = true;
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (blocked[to]) revert Blocked(to);
        super._update(from, to, amount);
    }
}

/// @notice Returns nothing from transfers, as the oldest tokens do, and does as it is told.
contract SilentToken {
    mapping(address => uint256) public balanceOf;
    mapping(address => mapping(address => uint256)) public allowance;
    uint8 public constant decimals = 6;

    error Insufficient();

    function mint(address account, uint256 amount) external {
        balanceOf[account] += amount;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
    }

    function transfer(address to, uint256 amount) external {
        _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external {
        if (allowance[from][msg.sender] < amount) revert Insufficient();
        allowance[from][msg.sender] -= amount;
        _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private {
        if (balanceOf[from] < amount) revert Insufficient();
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}
