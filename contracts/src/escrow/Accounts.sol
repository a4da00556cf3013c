// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Metadata} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Metadata.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuard} from "@openzeppelin/contracts/utils/ReentrancyGuard.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";

import {IComputeEscrow} from "../interfaces/IComputeEscrow.sol";
import {Check} from "../libraries/Check.sol";

/// @title Accounts
/// @notice Tokens in and out, and the balances between. Everything fixed at deployment is here.
/// @dev Only what calls the token is guarded against reentrance: nothing else calls out, but for the static calls of
/// ERC-1271 when a lease opens. Additions to balances cannot overflow: `deposit` bounds the sum of all holdings.
abstract contract Accounts is IComputeEscrow, EIP712, ReentrancyGuard {
    using SafeERC20 for IERC20;

    /* CONSTANTS */

    uint256 public constant MAX_FEE_BPS = 1000;
    uint256 private constant MIN_WINDOW_SECONDS = 1 minutes;
    uint256 private constant MAX_WINDOW_SECONDS = 30 days;
    uint256 private constant MAX_DECIMALS = 18;

    /* IMMUTABLES */

    IERC20 private immutable TOKEN;
    /// @dev Atoms of one token: 10^decimals.
    uint256 internal immutable SCALE;
    uint256 public immutable feeBps;
    address public immutable feeRecipient;
    uint256 public immutable settleWindow;
    uint256 public immutable disputeWindow;
    uint256 public immutable rulingWindow;

    /* STORAGE */

    /// @dev `balance`: free atoms. `fees`: atoms held back from a provider's income, owed to the fee recipient.
    struct Account {
        uint128 balance;
        uint128 fees;
    }

    mapping(address account => Account) private _accounts;

    /* CONSTRUCTOR */

    constructor(
        address token_,
        uint256 feeBps_,
        address feeRecipient_,
        uint256 settleWindow_,
        uint256 disputeWindow_,
        uint256 rulingWindow_
    ) {
        if (token_.code.length == 0) revert TokenWithoutCode(token_);
        uint256 decimals = IERC20Metadata(token_).decimals();
        Check.atMost(MAX_DECIMALS, decimals, DecimalsTooMany.selector);
        Check.atMost(MAX_FEE_BPS, feeBps_, FeeTooHigh.selector);
        if (feeBps_ > 0 && feeRecipient_ == address(0)) revert FeeRecipientMissing(feeBps_);
        TOKEN = IERC20(token_);
        SCALE = 10 ** decimals;
        feeBps = feeBps_;
        feeRecipient = feeRecipient_;
        settleWindow = _requireWindow(settleWindow_);
        disputeWindow = _requireWindow(disputeWindow_);
        rulingWindow = _requireWindow(rulingWindow_);
    }

    function _requireWindow(uint256 window) private pure returns (uint256) {
        if (window < MIN_WINDOW_SECONDS || window > MAX_WINDOW_SECONDS) {
            revert WindowOutOfBounds(MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS, window);
        }
        return window;
    }

    /* FUNDS */

    /// @inheritdoc IComputeEscrow
    function deposit(uint256 amount) external nonReentrant {
        _deposit(amount);
    }

    /// @inheritdoc IComputeEscrow
    function depositWithPermit(uint256 amount, uint256 deadline, uint8 v, bytes32 r, bytes32 s) external nonReentrant {
        try IERC20Permit(address(TOKEN)).permit(msg.sender, address(this), amount, deadline, v, r, s) {}
        catch {
            uint256 allowance = TOKEN.allowance(msg.sender, address(this));
            Check.atLeast(amount, allowance, PermitFailed.selector);
        }
        _deposit(amount);
    }

    /// @inheritdoc IComputeEscrow
    function withdraw(address to, uint256 amount) external nonReentrant {
        if (to == address(0) || to == address(this)) revert InvalidRecipient(to);
        if (amount == 0) revert ZeroAmount();

        _debit(msg.sender, amount);

        emit Withdrawn(msg.sender, to, amount);

        TOKEN.safeTransfer(to, amount);
    }

    /// @inheritdoc IComputeEscrow
    function collectFees(address[] calldata providers) external {
        for (uint256 i = 0; i < providers.length; i++) {
            uint256 fees = _accounts[providers[i]].fees;
            if (fees == 0) continue;

            _accounts[providers[i]].fees = 0;
            _credit(feeRecipient, fees);

            emit FeesCollected(providers[i], feeRecipient, fees);
        }
    }

    /// @dev The credit follows the call because it needs what arrived; the guard covers the time between.
    function _deposit(uint256 amount) private {
        if (amount == 0) revert ZeroAmount();

        uint256 before = TOKEN.balanceOf(address(this));
        TOKEN.safeTransferFrom(msg.sender, address(this), amount);
        uint256 holdings = TOKEN.balanceOf(address(this));
        Check.atMost(type(uint128).max, holdings, HoldingsTooLarge.selector);
        if (holdings != before + amount) Check.fail(before + amount, holdings, TransferMismatch.selector);

        _credit(msg.sender, amount);

        emit Deposited(msg.sender, amount);
    }

    function _credit(address account, uint256 amount) internal {
        if (amount > 0) _accounts[account].balance += uint128(amount);
    }

    function _debit(address account, uint256 amount) internal {
        uint256 available = _accounts[account].balance;
        Check.atMost(available, amount, InsufficientBalance.selector);
        _accounts[account].balance = uint128(available - amount);
    }

    /// @dev Credits a provider with the growth of its earnings, the fee held apart.
    function _pay(address provider, uint256 gross, uint256 fee) internal {
        if (gross == 0) return;
        Account memory account = _accounts[provider];
        account.balance += uint128(gross - fee);
        account.fees += uint128(fee);
        _accounts[provider] = account;
    }

    /* VIEWS */

    /// @inheritdoc IComputeEscrow
    function balanceOf(address account) external view returns (uint256) {
        return _accounts[account].balance;
    }

    /// @inheritdoc IComputeEscrow
    function feesOf(address provider) external view returns (uint256) {
        return _accounts[provider].fees;
    }

    /// @inheritdoc IComputeEscrow
    function domainSeparator() external view returns (bytes32) {
        return _domainSeparatorV4();
    }

    /// @inheritdoc IComputeEscrow
    function token() external view returns (address) {
        return address(TOKEN);
    }
}
